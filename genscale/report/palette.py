"""The colours of all plots."""

INK, FAINT, BLUE, GREEN = "#1c1e22", "#767a82", "#2f6fb5", "#16804a"

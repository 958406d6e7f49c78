"""One run: its request, prepared and carried out, its folder, and how both are read back."""

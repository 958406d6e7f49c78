"""Curves, contact sheets, grids and tables, drawn from plain data."""

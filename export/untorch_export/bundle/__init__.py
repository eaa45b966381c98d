"""Writes a bundle, whole or not at all, and packs it into a wheel."""

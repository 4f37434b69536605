"""Datasets of the package: one folder is one dataset repository on the Hub."""

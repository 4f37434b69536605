"""Tux-8, a test of real objects: photos and drawings with sentences in many languages, written by people."""

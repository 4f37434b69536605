"""MSVD with MSVD-CN: official CSV and text files in, rows of captions out."""

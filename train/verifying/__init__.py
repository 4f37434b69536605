"""`polyvid verify`: whether files are still what was written.

In: a file, or a folder of any kind that this package writes. Out: for each file whether it is whole, damaged, or has no
checksum, and what exactly is damaged. Nothing is written or locked, and nothing is executed or unpickled.

`formats` checks one file, `folders` says which files belong together, and `command` prints it.
"""

"""MSR-VTT: official JSON and CSV files in, rows of captions out."""

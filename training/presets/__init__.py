"""The table of numbers: a preset is a row, its columns say what each number means, and `--set` changes some."""

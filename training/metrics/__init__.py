"""What pictures and mattes are measured by: each file one family of figures, with its definition and its source."""

"""Selection: which candidates people review, predictions for the rest, automatic decisions."""

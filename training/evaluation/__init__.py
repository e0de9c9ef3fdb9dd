"""How good a checkpoint is: its figures on pictures it never trained on, quickly or thoroughly."""

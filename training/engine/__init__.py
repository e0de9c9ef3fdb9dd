"""The course of a training: the one loop that both recipes run in, and all that it needs of the machine."""

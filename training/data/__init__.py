"""A snapshot as tensors: pictures, the shapes they are gathered in, and what is computed of them once and kept."""

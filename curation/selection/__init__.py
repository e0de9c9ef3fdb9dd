"""Selection: which candidates people see, what they would say of the others, and what may be decided without them."""

"""The running instance: app context, local stack, supervisor, loop and doctor."""

"""The running instance: the app context, the local stack, the supervisor, the loop and the doctor."""

"""Import of untrusted image folders: every file is inspected in a sandbox and has an outcome."""

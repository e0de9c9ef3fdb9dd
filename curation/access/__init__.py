"""Access of programs and of people who sign in at an identity provider."""

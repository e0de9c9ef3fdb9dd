"""Images come in: a hostile folder becomes samples, every file with an outcome; and the seed set drawn here."""

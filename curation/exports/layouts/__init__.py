"""Layouts of pulled files, each as its reader expects them."""

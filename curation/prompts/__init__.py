"""Prompts: files of prompts, and generation of pair prompts by a grammar or a language model.

A pair prompt has a text for the foreground, one for the background, and one for the blended image.
"""

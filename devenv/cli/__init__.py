"""Read arguments and print text or JSON."""

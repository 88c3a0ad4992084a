"""The Textual application, its screens and widgets."""

"""Words, sentences and keywords: text processing that needs no model."""

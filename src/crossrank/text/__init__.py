"""Words, sentences and keywords: what is done with text before a model sees it."""

"""Methods: the scorer interface (`base`), shared blocks (`layers`) and one module per family."""

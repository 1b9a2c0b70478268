"""One module per verb of the command line: options in, a function of `clinprompt.api`, a table or JSON out."""

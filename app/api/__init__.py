"""All the HTTP: routes made from the list of layers, errors as problems, the documents."""

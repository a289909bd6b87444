"""Preference data on its way to a model: sources -> records -> transforms -> tokens -> batches.

`sources` reads rows and recognises their format, `records` says what a row means, `transforms` rewrites lists of
records, `tokens` turns them into flat arrays that are memory-mapped, `batches` decides which examples an optimizer
step sees, `collate` pads them. Every stage is a function of plain data; none knows a method or a model.
"""

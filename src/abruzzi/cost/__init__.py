"""Cost of training and serving: parameters, FLOP, bytes, prices, and the ledger of what was spent.

Plain Python floats, no numpy. Formulas are in `parameters`, `flops` and `bytes`; `training` and
`serving` put them together with a `hardware` and a price; `published` holds the shapes and figures
that they are held against; `ledger` and `energy` measure a run that really took place, `card`
writes it down.
"""

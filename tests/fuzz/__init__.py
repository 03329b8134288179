"""Draws legal and illegal calls of every operator and compares what they answer: `python -m tests.fuzz --help`.

draw     the recipes of tensors and calls, their values, and how a legal call is spoilt
judge    what is right: the definitions by indices in float64, and how far a result may lie from them
conv, pool, family, transformed
         each operator's draw and judgement
batches  runs calls in processes of their own, and finds the one that crashed, hung or took too much memory
"""

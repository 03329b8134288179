"""Draws legal and illegal calls of every operator and compares what they answer: `python -m tests.fuzz --help`.

draw     the recipes of tensors and calls, their values, and how a legal call is spoilt
definitions
         what is right: convolution and pooling by indices, in float64
judge    the verdicts: how far a result may lie from that, its gradients, and its bits on several threads
conv, pool, norm, local, transformed
         each operator's draw and judgement
batches  runs calls in processes of their own, and finds the one that crashed, hung or took too much memory
"""

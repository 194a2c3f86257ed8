"""What quantisation costs a model on real text, with the very weights that the chip gets (docs/quality.md).

quality
  variants    precisions to compare: each is a plan of a conversion
  windows     the text as tokens
  states      hidden states between two layers, on disk; what is finished is kept
  walk        every layer once, all variants through it; what each linear costs alone
  score       perplexity, agreement
  suggest     which linears to keep in half precision within a size
  result      the answer, as table, JSON and page
"""

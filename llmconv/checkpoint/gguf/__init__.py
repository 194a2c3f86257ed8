"""GGUF files of llama.cpp, seen as checkpoint directories in HuggingFace's form, so that nothing above knows of them.

header         what a file says of itself, every count bounded by the file's size
architectures  which models are known; names: HuggingFace's names of their tensors
config, rope   config.json's fields out of the metadata
tensors        which tensors there are, and which keep their integers
values         the bytes of a tensor, a few rows at a time (joined: of one that llama.cpp cuts into several)
named          a tensor by HuggingFace's name
clip           the file of a tower (clip_config: its part of config.json; pair: whether it goes with the others)
tokenizer      tokenizer.json, tokenizer_config.json, generation_config.json (bpe, pieces: the two kinds of vocabulary)
folder         config.json and the tokenizer in a directory, which stands for the file
file           what a path says by itself: all that is loaded where there is no such file
"""

"""Token engines: token ids in, token ids and logprobs out, weights swapped in place."""

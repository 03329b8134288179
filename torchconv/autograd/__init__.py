"""The operators as torch.autograd.Functions, closed under differentiation."""

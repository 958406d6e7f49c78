"""Set-up of all tests."""

import torch

# The models and tensors of the tests are tiny: waking a second thread takes longer than its share of the work.
torch.set_num_threads(1)

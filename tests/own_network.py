"""A file with networks of a user's own."""

OWN = """
from torch import nn

class Own(nn.Module):
    multiple_of = 2

    def __init__(self, spatial_dims, in_channels, out_channels, width=3):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.first = conv(in_channels, width, 3, padding=1)
        self.head = conv(width, out_channels, 1)

    def forward(self, images):
        inside = self.first(images).relu()
        if not self.training:
            return self.head(inside)
        return [self.head(inside), self.head(nn.functional.avg_pool2d(inside, 2))]

class Wrong(Own):
    def forward(self, images):
        return images
"""

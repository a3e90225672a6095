"""Networks: feature map and weight tensor."""

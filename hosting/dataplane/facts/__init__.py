"""What the control plane has told this node: followed, kept, looked up."""

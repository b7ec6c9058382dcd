"""What a gateway process tells of itself: logs, metrics, and reports to the control plane."""

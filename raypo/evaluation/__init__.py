"""What a trained policy is worth: samples, verdicts, and estimates that carry their own uncertainty."""

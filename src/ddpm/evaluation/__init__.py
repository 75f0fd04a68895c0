"""What the evaluate commands do: likelihood, FID and KID, the codec, memorisation."""

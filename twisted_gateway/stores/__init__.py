"""What outlives an exchange: counters in this process, or in a Redis that several gateways share."""

"""The demo application: pods that serve, their kubelet, the gateways and the users, in one child process."""

"""Policy bundles: a folder of `.rego` files each, named after its package."""

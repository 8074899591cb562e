"""What the product consists of besides its own code, and which of it has known vulnerabilities.

``sbom`` writes the software bill of materials, ``scan`` compares it with a vulnerability database. Both are tools of
the development: the product imports neither.
"""

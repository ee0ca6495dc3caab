"""Kafka's archive, assembled from Maven Central: ``python -m lab.dist``.

The jars are those that ``pom.xml`` lists, each with the SHA-512 in ``checksums.sha512``, in an
archive laid out like Apache's. The same jars give the same bytes on any machine, so the archive's
own SHA-512 stands in that file as well.
"""

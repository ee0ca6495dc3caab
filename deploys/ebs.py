"""EBS volumes under a customer's KMS key: pyinfra INVENTORY deploys/ebs.py

Run it before deploys/site.py, and after a volume was declared. It makes what is missing and refuses
what is not encrypted under the key; it never detaches or deletes anything. See docs/aws.md.
"""

from pyinfra import state

from roles.common.session import begin
from roles.ebs.deploy import provision
from strongbox.site import ebs_hosts

begin()
provision(ebs_hosts(state.strongbox_cluster))

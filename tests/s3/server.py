"""An S3 server on the loopback interface, with one user, who must sign what they ask for.

Prints port, access key and secret key in one line, and serves until it is ended. The user has one bucket,
`bucket`.
"""

import os
import signal
import sys

# As many calls as make the user; from then on signatures and policies count.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "4"

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
_, port = server.get_host_and_port()


def client(service):
    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )


iam = client("iam")
client("s3").create_bucket(Bucket="bucket")
iam.create_user(UserName="nas")
everything = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
iam.put_user_policy(UserName="nas", PolicyName="all", PolicyDocument=everything)
key = iam.create_access_key(UserName="nas")["AccessKey"]
print(port, key["AccessKeyId"], key["SecretAccessKey"], flush=True)
signal.pause()
sys.exit(0)

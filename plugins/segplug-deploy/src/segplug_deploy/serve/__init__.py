"""``seg-kernel serve``: models as an HTTP service with a web page.

    from segplug_deploy.serve.app import create_app         # an ASGI application

The extra ``segplug-deploy[serve]`` installs what it needs: Starlette, uvicorn and python-multipart.
"""

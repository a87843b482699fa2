"""Asks Helm itself what `--set` means, and writes its answers beside this file.

    pip install helm-python-sdk && python ask_helm.py
"""

import json
import pathlib

from helm_python import HelmError, _native

ARGUMENTS = r"""
a=1
a=-5
a=+5
a=0
a=-0
a=00
a=007
a=-07
a=1.5
a=1e3
a=0x10
a=1_000
a=9223372036854775807
a=9223372036854775808
a=-9223372036854775809
a=true
a=tRue
a=FALSE
a=yes
a=null
a=Null
a=~
a=
a==
a=b=c
a= x 
a=x y
a="x"
a=500MB
a=12%
a=1h30m
a=1,
a=,b=1
a=1,b=2
a=1, b=2
a=x,a=y
a=tcp port 80\, 443
a=\
a=\\
a=\n
a=\,
a=x\=y
a=a.b[0]{c}
a=x}y
a=x{y
ä=ö
a\.b=1
a\[0\]=1
"a"=b
a-b=1
a.b=c
a.b.c.d=1
a.b=1,a.c=2
a.b=null
a.b=1,a=2
a=1,a.b=2
a=null,a.b=1
a=x,a[0]=y
a=null,a[0]=1
a[0]=1,a.b=2
a.b=1,a[0]=2
a={}
a={x}
a={x,y}
a={x,}
a={,x}
a={ x , y }
a={null,true,1,1.5}
a={\,,\}}
a={x},
a={x},b=2
a={x},a={y}
a={x
a={{x}}
a={x}y
a={x}b=1
a={x} ,b=1
a[0]=x
a[0]=x,
a[0]=,b=1
a[1]=x
a[+1]=1
a[-1]=x
a[x]=1
a[]=1
a[ 0 ]=1
a[65537]=1
a[70000]=1
a [0]=1
a[0]x=1
a[0]={x,y}
a[0]={x}y
a[0]=x,a[1]=y
a[1]=x,a[0]=y
a[0]=null,a[1]=x
a.b[0]=x,a.b[1]=y
a={x,y},a[1]=z
a={x,y},a[2]=z
a[0][1]=x
a[0][0]=x,a[0][1]=y
a[0]=1,a[0][0]=2
a[0].b=x,a[0].c=y
a[0].b=x,a[1].b=y
a[0]=1,a[0].b=2
a[1]=x,a[0].b=y
a[0].b=1,a[0]=2
a[0].b[0].c=z

,
=1
.a=1
a.=1
a..b=1
a
a.b
a,b=1
a[0
a[0]
a[0].b
a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z.a.b.c.d.e=1
a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z.a.b.c.d.e.f=1
"""


def ask(argument):
    try:
        return {"values": json.loads(_native.call_string("helm_strvals_parse", argument))}
    except HelmError as error:
        return {"error": str(error)}


answers = {
    "helm": _native.helm_sdk_version(),
    "answers": [[argument, ask(argument)] for argument in ARGUMENTS[1:-1].split("\n")],
}
lines = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers["answers"])
pathlib.Path(__file__).with_name("helm_set.json").write_text(
    f'{{"helm": "{answers["helm"]}", "answers": [\n{lines}\n]}}\n', encoding="utf-8"
)

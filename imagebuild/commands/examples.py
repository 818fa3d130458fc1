"""One working example for each command's --help, by its words after ``imagebuild``; a test reads each as the program would."""

from __future__ import annotations

EXAMPLES = {
    "init": "imagebuild init churn --base starter",
    "doctor": "imagebuild doctor",
    "image": "imagebuild image cosml --registry registry.example.com/ml",
    "lock": "imagebuild lock cosml --check",
    "personal": "imagebuild personal cosml requirements.txt",
    "size": "imagebuild size cosml",
    "diff": "imagebuild diff cosml@2026q3 cosml",
    "explain": "imagebuild explain cosml",
    "render": "imagebuild render cosml",
    "bake": "imagebuild bake --all",
    "bundle": "imagebuild bundle cosml --output cosml-bundle",
    "base list": "imagebuild base list",
    "base pin": "imagebuild base pin jupyter-scipy",
    "base inspect": "imagebuild base inspect starter",
    "base build": "imagebuild base build starter",
    "verify": "imagebuild verify cosml",
    "audit": "imagebuild audit cosml --osv osv/",
    "smoke": "imagebuild smoke cosml",
    "catalogue": "imagebuild catalogue --format html",
    "catalogue show": "imagebuild catalogue show cosml",
    "catalogue verify": "imagebuild catalogue verify cosml",
    "keep": "imagebuild keep cosml churn-q4",
    "retire": "imagebuild retire --in-use cluster.json",
    "prewarm": "imagebuild prewarm --plan",
    "notebook": "imagebuild notebook cosml --gpu 1",
    "ci teams": "imagebuild ci teams --since origin/main",
    "ci summary": "imagebuild ci summary cosml --since origin/main",
    "completion": 'eval "$(imagebuild completion bash)"',
}

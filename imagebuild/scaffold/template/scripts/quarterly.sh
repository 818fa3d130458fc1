#!/usr/bin/env bash
# One team's update for a new quarter, as a commit to look at: the base pinned to what its tag names now, the lock made anew with
# the newest versions until a date, and a report of what that changes. For any CI system; .github/workflows/images-quarter.yml calls it too.
#
#   scripts/quarterly.sh TEAM [DATE]      DATE: files uploaded until then (default: the first day of this quarter, UTC), or until
#                                         the cutoff of the lock that is there when that is later: nothing goes back to older versions
#
# Run it in a clean checkout with git and a virtual environment (make .venv/.installed). It changes images/catalogue.toml and
# the locks of TEAM, and commits them on the branch images/TEAM-QUARTER; it pushes nothing. The report is
# .imagebuild/quarterly/TEAM.md, the patch beside it TEAM.patch. When nothing changed there is no branch and no patch.
#
# IMAGEBUILD            the program (default .venv/bin/imagebuild)
# IMAGEBUILD_OPTIONS    options for it, as in "--registry registry.example.com/ml"
set -euo pipefail

fail() {
    printf 'quarterly: error: %s\n' "$1" >&2
    printf 'quarterly: hint: %s\n' "$2" >&2
    exit 2
}

team=${1:-}
[[ $team =~ ^[a-z0-9]+(-[a-z0-9]+)*$ ]] || fail "not a team name: '$team'" 'scripts/quarterly.sh TEAM [DATE]'
year=$(date -u +%Y) month=$((10#$(date -u +%m)))
first=$(printf '%s-%02d-01' "$year" $(((month - 1) / 3 * 3 + 1)))
until_date=${2:-$first}
[[ $until_date =~ ^([0-9]{4})-([0-9]{2})-[0-9]{2} ]] || fail "not a date: '$until_date'" 'write it as 2026-10-01'
quarter=${BASH_REMATCH[1]}q$(((10#${BASH_REMATCH[2]} + 2) / 3))

cd "$(git rev-parse --show-toplevel)"
git diff --quiet HEAD -- images lockfiles || fail 'images/ or lockfiles/ have changes that are not committed' 'commit or undo them first'
read -ra options <<<"${IMAGEBUILD_OPTIONS:-}"
imagebuild() { "${IMAGEBUILD:-.venv/bin/imagebuild}" "$@" ${options[@]+"${options[@]}"}; }

cutoff=$(sed -n 's/^cutoff = "\(.*\)"$/\1/p' "lockfiles/pylock.$team.toml" 2>/dev/null || true)
moment=$until_date
[[ $moment == *T* ]] || moment+=T00:00:00Z
if [[ $cutoff > $moment ]]; then
    printf '%s: the lock has files until %s already: not until %s\n' "$team" "$cutoff" "$until_date"
    until_date=$cutoff
fi

imagebuild base pin --team "$team"
imagebuild lock "$team" --upgrade --as-of "$until_date" >/dev/null
imagebuild lock "$team" --check --offline

changed=(images/catalogue.toml "lockfiles/pylock.$team.toml")
[[ ! -d lockfiles/bases ]] || changed+=(lockfiles/bases)
for lock in "lockfiles/r.$team.toml" "lockfiles/vscode.$team.toml"; do # of add-ons: there, or removed because the team has none any more
    if [[ -e $lock ]] || git ls-files --error-unmatch -- "$lock" >/dev/null 2>&1; then changed+=("$lock"); fi
done
git add -- "${changed[@]}"
out=.imagebuild/quarterly
mkdir -p "$out"
rm -f "$out/$team.md" "$out/$team.patch"
# A lock whose cutoff alone moved holds the same packages: no image is worth a review for that.
if git diff --cached --quiet -I '^cutoff = ' -- "${changed[@]}"; then
    git restore --staged --worktree -- "${changed[@]}"
    printf '%s: nothing changed until %s\n' "$team" "$until_date"
    exit 0
fi
imagebuild ci summary "$team" --since HEAD >"$out/$team.md"
branch=images/$team-$quarter
git switch --quiet --force-create "$branch"
git commit --quiet --message "$team: packages and base of $quarter" --message "Files uploaded until $until_date."
git format-patch --quiet --stdout -1 >"$out/$team.patch"
printf '%s: branch %s, report %s\n' "$team" "$branch" "$out/$team.md"

/**
 * Copies the text of a field to the clipboard and returns whether that worked. Selects the text, so that the user can
 * copy it where the browser does not let the page. On plain HTTP there is no `navigator.clipboard`; the deprecated
 * command works there right after a click.
 */
export async function copyField(field: HTMLInputElement | HTMLTextAreaElement): Promise<boolean> {
  field.focus();
  field.select();
  if (navigator.clipboard !== undefined) {
    try {
      await navigator.clipboard.writeText(field.value);
      return true;
    } catch {
      // Not permitted; the deprecated command may be.
    }
  }
  return document.execCommand('copy');
}
